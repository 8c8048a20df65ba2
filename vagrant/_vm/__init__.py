"""The parts of `vagrant/vm`; standard library only, for it runs before `.venv` exists."""
