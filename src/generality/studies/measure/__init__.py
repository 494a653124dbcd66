"""What predicts or explains a generalization gap."""
