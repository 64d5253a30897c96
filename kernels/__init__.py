"""The Triton kernels, one op per file. They import only torch and triton; importing a file imports triton."""
