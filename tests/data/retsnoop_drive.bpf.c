// SPDX-License-Identifier: MIT
/*
 * retsnoop's program, driven by hand: a test says which call or return happens,
 * through BPF_PROG_TEST_RUN of a raw tracepoint program, in its own task. So what
 * becomes of any sequence, with losses or without, is tested without attaching.
 */
#include "../../pybpf/tools/retsnoop/retsnoop.bpf.c"

enum { CALL, RETURN, TASK_EXITS };

/* ctx: what happens, function and flags as in a cookie, return value */
SEC("raw_tp/drive")
int drive(__u64 *ctx)
{
	__u64 what = ctx[0], cookie = ctx[1], result = ctx[2];

	if (what == CALL)
		on_entry(ctx, cookie, cookie >> 32, false);
	else if (what == RETURN)
		on_exit(ctx, cookie, cookie >> 32, &result);
	else
		on_task_exit();
	return 0;
}
