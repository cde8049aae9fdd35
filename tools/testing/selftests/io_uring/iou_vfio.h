/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The BAR of a PCI device as a dma-buf, exported by vfio-pci: memory that a
 * drive reaches without the host's. The CPU gets at it by sysfs, which neither
 * vfio nor the dma-buf has a part in.
 *
 * The devices are QEMU's, two on the root bus and two behind a switch:
 *
 *	-device ivshmem-plain,memdev=...,bus=...
 *	-device nvme,serial=scratch...,bus=...
 *
 * Nobody wants the data of a drive whose serial number starts with "scratch".
 */
#ifndef IOU_VFIO_H
#define IOU_VFIO_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PCI_DEVICES	"/sys/bus/pci/devices"
#define IVSHMEM_VENDOR	"0x1af4"
#define IVSHMEM_DEVICE	"0x1110"
#define IVSHMEM_BAR	2

/* A device that is open by vfio. @map is the CPU's way to its BAR. */
struct vfio_bar {
	int		container;
	int		group;
	int		device;
	unsigned int	bar;
	unsigned char	*map;
	size_t		size;
};

static inline int sysfs_put(const char *path, const char *val)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = write(fd, val, strlen(val));
	if (n < 0)
		n = -errno;
	close(fd);
	return n < 0 ? n : 0;
}

/* The last part of where the link @name of device @bdf points to, or -errno */
static inline int pci_link(const char *bdf, const char *name,
			   char to[NAME_MAX + 1])
{
	char path[PATH_MAX], dest[NAME_MAX + 1];
	const char *last;
	ssize_t n;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", bdf, name);
	n = readlink(path, dest, sizeof(dest) - 1);
	if (n < 0)
		return -errno;
	dest[n] = '\0';
	last = strrchr(dest, '/');
	strcpy(to, last ? last + 1 : dest);
	return 0;
}

/* Give device @bdf to vfio-pci, for as long as the machine runs */
static inline int vfio_bind(const char *bdf)
{
	char path[PATH_MAX], name[NAME_MAX + 1];
	int ret;

	if (!pci_link(bdf, "driver", name))
		return strcmp(name, "vfio-pci") ? -EBUSY : 0;
	/* a device without an IOMMU gets a group only if that is allowed */
	if (pci_link(bdf, "iommu_group", name)) {
		ret = sysfs_put("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
				"1");
		if (ret)
			return ret;
	}
	snprintf(path, sizeof(path), PCI_DEVICES "/%s/driver_override", bdf);
	ret = sysfs_put(path, "vfio-pci");
	if (ret)
		return ret;
	ret = sysfs_put("/sys/bus/pci/drivers_probe", bdf);
	if (ret)
		return ret;
	return pci_link(bdf, "driver", name);
}

static inline int vfio_unbind(const char *bdf)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/driver_override", bdf);
	sysfs_put(path, "\n");
	return sysfs_put("/sys/bus/pci/drivers/vfio-pci/unbind", bdf);
}

static inline int vfio_open_group(struct vfio_bar *b, const char *bdf)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	char group[NAME_MAX + 1], name[NAME_MAX + 1] = "", path[PATH_MAX];
	unsigned int type = VFIO_TYPE1v2_IOMMU;
	FILE *f;

	if (pci_link(bdf, "iommu_group", group))
		return -ENODEV;
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%s/name", group);
	f = fopen(path, "r");
	if (f) {
		if (fgets(name, sizeof(name), f) &&
		    !strncmp(name, "vfio-noiommu", 12))
			type = VFIO_NOIOMMU_IOMMU;
		fclose(f);
	}
	snprintf(path, sizeof(path), "/dev/vfio/%s%s",
		 type == VFIO_NOIOMMU_IOMMU ? "noiommu-" : "", group);
	b->group = open(path, O_RDWR | O_CLOEXEC);
	if (b->group < 0)
		return -errno;
	b->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	if (b->container < 0)
		return -errno;
	if (ioctl(b->group, VFIO_GROUP_GET_STATUS, &status))
		return -errno;
	/* somebody else has a device of the group */
	if (!(status.flags & VFIO_GROUP_FLAGS_VIABLE))
		return -EBUSY;
	if (ioctl(b->group, VFIO_GROUP_SET_CONTAINER, &b->container) ||
	    ioctl(b->container, VFIO_SET_IOMMU, type))
		return -errno;
	b->device = ioctl(b->group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	return b->device < 0 ? -errno : 0;
}

/* As step_failed() of iou_test.h, which users of this may not have */
static inline int vfio_failed(const char *step, int err)
{
	fprintf(stderr, "# %s: %s\n", step, strerror(-err));
	return err;
}

/* Whether the device answers to accesses to its BARs, and makes some itself */
static inline int vfio_bar_enable(struct vfio_bar *b, bool on)
{
	struct vfio_region_info config = {
		.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	uint16_t cmd;

	if (ioctl(b->device, VFIO_DEVICE_GET_REGION_INFO, &config))
		return -errno;
	if (pread(b->device, &cmd, sizeof(cmd), config.offset + PCI_COMMAND) !=
	    sizeof(cmd))
		return vfio_failed("read PCI_COMMAND", -EIO);
	cmd &= ~(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	if (on)
		cmd |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	if (pwrite(b->device, &cmd, sizeof(cmd), config.offset + PCI_COMMAND) !=
	    sizeof(cmd))
		return vfio_failed("write PCI_COMMAND", -EIO);
	return 0;
}

static inline void vfio_bar_none(struct vfio_bar *b)
{
	b->container = -1;
	b->group = -1;
	b->device = -1;
}

/* The device as such; what refers to its memory lives on, and gets none */
static inline void vfio_bar_close(struct vfio_bar *b)
{
	if (b->device >= 0)
		close(b->device);
	if (b->group >= 0)
		close(b->group);
	if (b->container >= 0)
		close(b->container);
	vfio_bar_none(b);
}

static inline void vfio_bar_exit(struct vfio_bar *b)
{
	vfio_bar_close(b);
	if (b->map)
		munmap(b->map, b->size);
	b->map = NULL;
}

/* Open device @bdf, which is bound, and make its memory accessible */
static inline int vfio_bar_open(struct vfio_bar *b, const char *bdf)
{
	return vfio_open_group(b, bdf) ?: vfio_bar_enable(b, true);
}

static inline int vfio_bar_init(struct vfio_bar *b, const char *bdf,
				unsigned int bar)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = bar };
	char path[PATH_MAX];
	int fd, ret;

	memset(b, 0, sizeof(*b));
	vfio_bar_none(b);
	b->bar = bar;
	ret = vfio_bind(bdf);
	if (!ret)
		ret = vfio_bar_open(b, bdf);
	if (!ret && ioctl(b->device, VFIO_DEVICE_GET_REGION_INFO, &info))
		ret = -errno;
	if (!ret && !info.size)
		ret = -ENODEV;
	if (ret)
		goto err;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource%u", bdf, bar);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		ret = -errno;
		goto err;
	}
	b->size = info.size;
	b->map = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (b->map == MAP_FAILED) {
		ret = -errno;
		b->map = NULL;
		goto err;
	}
	return 0;

err:
	vfio_bar_exit(b);
	return ret;
}

/* A dma-buf of a part of the BAR, or -errno */
static inline int vfio_bar_export(struct vfio_bar *b, size_t off, size_t len)
{
	struct {
		struct vfio_device_feature hdr;
		struct vfio_device_feature_dma_buf get;
		struct vfio_region_dma_range range;
	} arg = {
		.hdr = {
			.argsz = sizeof(arg),
			.flags = VFIO_DEVICE_FEATURE_GET |
				 VFIO_DEVICE_FEATURE_DMA_BUF,
		},
		.get = {
			.region_index = b->bar,
			.open_flags = O_RDWR | O_CLOEXEC,
			.nr_ranges = 1,
		},
		.range = { .offset = off, .length = len },
	};
	int fd = ioctl(b->device, VFIO_DEVICE_FEATURE, &arg);

	return fd < 0 ? -errno : fd;
}

enum route {
	ROOT,
	SWITCH,
};

static inline bool sysfs_is(const char *dev, const char *attr, const char *start)
{
	char path[2 * PATH_MAX], val[64] = "";
	bool ret;
	FILE *f;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", dev, attr);
	f = fopen(path, "r");
	if (!f)
		return false;
	ret = fgets(val, sizeof(val), f) &&
	      !strncmp(val, start, strlen(start));
	fclose(f);
	return ret;
}

/* /sys/devices/pci0000:00/0000:00:04.0 is on a root bus */
static inline enum route pci_route(const char *bdf)
{
	char path[PATH_MAX], real[PATH_MAX], *up;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s", bdf);
	if (!realpath(path, real))
		return ROOT;
	up = strrchr(real, '/');
	*up = '\0';
	up = strrchr(real, '/');
	return strncmp(up, "/pci", 4) ? SWITCH : ROOT;
}

/* The name of the NVMe controller that device @bdf is, "nvme0" */
static inline bool nvme_name(const char *bdf, char name[NAME_MAX + 1])
{
	char path[PATH_MAX];
	struct dirent *d;
	bool ret = false;
	DIR *dir;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/nvme", bdf);
	dir = opendir(path);
	if (!dir)
		return false;
	while ((d = readdir(dir))) {
		if (strncmp(d->d_name, "nvme", 4))
			continue;
		snprintf(path, sizeof(path), "nvme/%s/serial", d->d_name);
		ret = sysfs_is(bdf, path, "scratch");
		strcpy(name, d->d_name);
	}
	closedir(dir);
	return ret;
}

/* What is on @route: the address of the memory, and the path of the drive */
static inline bool find_bar(enum route route, char bdf[NAME_MAX + 1])
{
	struct dirent *d;
	bool ret = false;
	DIR *dir;

	dir = opendir(PCI_DEVICES);
	while (dir && !ret && (d = readdir(dir))) {
		ret = sysfs_is(d->d_name, "vendor", IVSHMEM_VENDOR) &&
		      sysfs_is(d->d_name, "device", IVSHMEM_DEVICE) &&
		      pci_route(d->d_name) == route;
		strcpy(bdf, d->d_name);
	}
	if (dir)
		closedir(dir);
	return ret;
}

static inline bool find_drive(enum route route, char *path, size_t size)
{
	char name[NAME_MAX + 1];
	struct dirent *d;
	bool ret = false;
	DIR *dir;

	dir = opendir(PCI_DEVICES);
	while (dir && !ret && (d = readdir(dir))) {
		ret = nvme_name(d->d_name, name) &&
		      pci_route(d->d_name) == route;
		snprintf(path, size, "/dev/%.20sn1", name);
	}
	if (dir)
		closedir(dir);
	return ret;
}

#endif /* IOU_VFIO_H */
