"""The parts of `vagrant/e2e`, `vagrant/build-box` and `vagrant/kvm`; standard library only."""
