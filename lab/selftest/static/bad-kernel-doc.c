// SPDX-License-Identifier: GPL-2.0
/**
 * io_bad - a function one of whose arguments nobody describes
 * @one: the first
 *
 * Return: their sum.
 */
int io_bad(int one, int two)
{
	return one + two;
}
