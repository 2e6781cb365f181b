"""What each part of the learning rate search contributes."""
