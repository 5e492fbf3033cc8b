"""The network, in the order of the paper's figure. Touch it only with the parity tests at hand."""
