"""The table of DDRM's and DDNM's papers on held-aside images, with the package's own priors."""
