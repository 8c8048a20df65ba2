/* SPDX-License-Identifier: MIT */
/* Sources written for libbpf include this. pybpf.h has what they take from it. */
#include "../../pybpf.h"
