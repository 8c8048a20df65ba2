/* SPDX-License-Identifier: MIT */
/* Sources written for libbpf include this. usdt.h has what they take from it. */
#include "../../pybpf.h"
#include "../../usdt.h"
