"""Small complete tracers; each file is one, with its BPF source beside it."""
