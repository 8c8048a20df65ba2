"""What developers run: generators, the demonstration, the environment of a checkout."""
