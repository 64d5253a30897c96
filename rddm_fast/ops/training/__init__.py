"""The ops of a U-Net in training: each has its gradients, one op forwards and one backwards."""
