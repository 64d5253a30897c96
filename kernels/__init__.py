"""The Triton kernels, one op a file. Importing a file of this package imports triton."""
