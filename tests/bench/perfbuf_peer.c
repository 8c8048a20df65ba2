// What C pays for a perf buffer: libbpf's consumer with a trivial callback.

#include <bpf/libbpf.h>
#include <stddef.h>
#include <time.h>

static unsigned long long sum, records;

static void count(void *ctx, int cpu, void *data, __u32 size)
{
	records++;
	sum += *(unsigned long long *)data;
}

struct perf_buffer *perf_open(int fd, size_t pages)
{
	return perf_buffer__new(fd, pages, count, NULL, NULL, NULL);
}

void perf_close(struct perf_buffer *buffer)
{
	perf_buffer__free(buffer);
}

// Consumes what is there; returns nanoseconds per record, or -1 if it is not all of them.
double perf_consume(struct perf_buffer *buffer, unsigned long long want)
{
	struct timespec a, b;

	records = 0;
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (perf_buffer__consume(buffer) < 0 || records != want)
		return -1;
	clock_gettime(CLOCK_MONOTONIC, &b);
	return ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / records;
}
