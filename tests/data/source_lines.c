/* A stand-in for vmlinux: functions at the addresses of a kernel, one inlined in another.
 * See README.md for how the file next to it was made.
 */
__asm__(".text\n.globl _text\n_text:\n");
#line 10 "include/linux/lookup.h"
static inline __attribute__((always_inline)) int fits(int length)
{
	__asm__ volatile("nop");
	return length < 255;
}
#line 100 "fs/namei.c"
__attribute__((noinline)) int may_open(int length)
{
	int small;
	small = fits(length);
	__asm__ volatile("nop");
	return small;
}
#line 200 "/src/linux/arch/x86/kernel/../entry/common.c"
__attribute__((noinline)) int do_syscall(int length)
{
	__asm__ volatile("nop");
	return may_open(length) + 1;
}
