"""The Triton kernels, one op per file. They import torch and triton alone; importing a file imports triton."""
