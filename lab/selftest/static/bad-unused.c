// SPDX-License-Identifier: GPL-2.0
/* gcc is silent about this one without W=1. */
static const int io_bad_table[] = { 1, 2 };
