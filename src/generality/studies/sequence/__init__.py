"""How the layers of a network carry information along a sequence."""
