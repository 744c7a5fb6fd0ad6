"""Our models beside those of the peers: the same weights, the same inputs, and checks that they compute the same."""
