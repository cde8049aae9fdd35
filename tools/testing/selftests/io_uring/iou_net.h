/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sockets that tests are done with.
 */
#ifndef IOU_NET_H
#define IOU_NET_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "iou_test.h"

/*
 * Both ends of a connection. What s[1] receives and s[0] sends is buffered in
 * @rcvbuf and @sndbuf bytes, 0 for as much as is usual.
 */
static inline int tcp_pair(int *s, int rcvbuf, int sndbuf)
{
	struct sockaddr_in sin = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int l = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t len = sizeof(sin);

	s[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || s[0] < 0 ||
	    (rcvbuf && setsockopt(l, SOL_SOCKET, SO_RCVBUF, &rcvbuf,
				  sizeof(rcvbuf))) ||
	    (sndbuf && setsockopt(s[0], SOL_SOCKET, SO_SNDBUFFORCE, &sndbuf,
				  sizeof(sndbuf))) ||
	    bind(l, (void *)&sin, len) || listen(l, 1) ||
	    getsockname(l, (void *)&sin, &len) ||
	    connect(s[0], (void *)&sin, len))
		return -errno;
	s[1] = accept(l, NULL, NULL);
	close(l);
	return s[1] < 0 ? -errno : 0;
}

#endif
