"""The parts of `vagrant/vm`. Standard library only, because it runs before `.venv` exists."""
