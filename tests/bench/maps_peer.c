// What C pays for map operations: raw bpf(2) calls in a loop, attr set up once.
// Each function returns nanoseconds per entry. Keys are __u32 0..n-1, values __u64.

#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static long call(int cmd, union bpf_attr *attr, unsigned int size)
{
	return syscall(SYS_bpf, cmd, attr, size);
}

#define ELEM_SIZE 32
#define BATCH_SIZE 56

static double each(int fd, unsigned int n, int cmd)
{
	union bpf_attr attr;
	__u32 key;
	__u64 value = 1;
	double start;

	memset(&attr, 0, sizeof(attr));
	attr.map_fd = fd;
	attr.key = (__u64)(unsigned long)&key;
	attr.value = (__u64)(unsigned long)&value;
	start = now();
	for (key = 0; key < n; key++)
		if (call(cmd, &attr, ELEM_SIZE))
			return -1;
	return (now() - start) / n;
}

double lookup(int fd, unsigned int n)
{
	return each(fd, n, BPF_MAP_LOOKUP_ELEM);
}

double update(int fd, unsigned int n)
{
	return each(fd, n, BPF_MAP_UPDATE_ELEM);
}

double walk(int fd)
{
	union bpf_attr next, attr;
	__u32 keys[2];
	__u64 value;
	unsigned int count = 0;
	double start;

	memset(&next, 0, sizeof(next));
	next.map_fd = fd;
	next.next_key = (__u64)(unsigned long)&keys[1];
	memset(&attr, 0, sizeof(attr));
	attr.map_fd = fd;
	attr.key = (__u64)(unsigned long)&keys[1];
	attr.value = (__u64)(unsigned long)&value;
	start = now();
	while (!call(BPF_MAP_GET_NEXT_KEY, &next, ELEM_SIZE)) {
		if (call(BPF_MAP_LOOKUP_ELEM, &attr, ELEM_SIZE))
			return -1;
		keys[0] = keys[1];
		next.key = (__u64)(unsigned long)&keys[0];
		count++;
	}
	return (now() - start) / count;
}

double lookup_batch(int fd, unsigned int batch)
{
	union bpf_attr attr;
	__u32 *keys = calloc(batch, sizeof(*keys));
	__u64 *values = calloc(batch, sizeof(*values));
	__u64 cursor = 0;
	unsigned int count = 0;
	double start = now();
	long err;

	memset(&attr, 0, sizeof(attr));
	attr.batch.map_fd = fd;
	attr.batch.out_batch = (__u64)(unsigned long)&cursor;
	attr.batch.keys = (__u64)(unsigned long)keys;
	attr.batch.values = (__u64)(unsigned long)values;
	do {
		attr.batch.count = batch;
		err = call(BPF_MAP_LOOKUP_BATCH, &attr, BATCH_SIZE);
		count += attr.batch.count;
		attr.batch.in_batch = attr.batch.out_batch;
	} while (!err);
	start = now() - start;
	free(keys);
	free(values);
	return start / count;
}

double update_batch(int fd, unsigned int n)
{
	union bpf_attr attr;
	__u32 *keys = calloc(n, sizeof(*keys));
	__u64 *values = calloc(n, sizeof(*values));
	unsigned int i;
	double start;
	long err;

	for (i = 0; i < n; i++) {
		keys[i] = i;
		values[i] = i;
	}
	memset(&attr, 0, sizeof(attr));
	attr.batch.map_fd = fd;
	attr.batch.keys = (__u64)(unsigned long)keys;
	attr.batch.values = (__u64)(unsigned long)values;
	attr.batch.count = n;
	start = now();
	err = call(BPF_MAP_UPDATE_BATCH, &attr, BATCH_SIZE);
	start = now() - start;
	free(keys);
	free(values);
	return err ? -1 : start / n;
}
