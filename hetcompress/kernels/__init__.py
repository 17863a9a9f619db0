"""The project's own kernel: a convolution over kept vectors of V filters x one input channel x one tap."""
