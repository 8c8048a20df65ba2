// What C pays for a ring buffer: libbpf's consumer with a trivial callback.

#include <bpf/libbpf.h>
#include <stddef.h>
#include <time.h>

static unsigned long long sum, records;

static int count(void *ctx, void *data, size_t size)
{
	records++;
	sum += *(unsigned long long *)data;
	return 0;
}

struct ring_buffer *ring_open(int fd)
{
	return ring_buffer__new(fd, count, NULL, NULL);
}

void ring_close(struct ring_buffer *ring)
{
	ring_buffer__free(ring);
}

// Consumes what is there; returns nanoseconds per record.
double ring_consume(struct ring_buffer *ring)
{
	struct timespec a, b;

	records = 0;
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (ring_buffer__consume(ring) < 0 || !records)
		return -1;
	clock_gettime(CLOCK_MONOTONIC, &b);
	return ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / records;
}
