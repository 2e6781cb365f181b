"""What finds a learning rate: many rules, and short trials, on GPTs of three sizes."""
