"""Files, processes, signals, optional packages: what the package needs of the machine it runs on."""
