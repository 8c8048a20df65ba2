"""Scripts for developers: generators, the demonstration, the environment of a checkout."""
