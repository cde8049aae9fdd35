/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FIO_LINUX_DMABUF_H
#define FIO_LINUX_DMABUF_H

#include <stdbool.h>
#include <stddef.h>

int dmabuf_alloc(const char *source, size_t size);
int dmabuf_cpu_access(int fd, bool start);

#endif
