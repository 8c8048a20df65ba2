"""pybpf: a pure-Python, libbpf-style BPF loader."""
