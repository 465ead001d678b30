//go:build cgo

#include <elf.h>
#include <link.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE // Linux 5.14; before that, nothing happens
#define MADV_POPULATE_WRITE 23
#endif

// populate has the kernel copy the pages of initialized data at once. Go writes to every second of them before main
// begins, each for two page faults: one maps the file's page, the next one copies it. The program is not relocated.
__attribute__((constructor)) static void populate(void) {
	const ElfW(Phdr) *header = (const void *)getauxval(AT_PHDR);
	uintptr_t page = sysconf(_SC_PAGESIZE);
	for (unsigned long n = getauxval(AT_PHNUM); n > 0; n--, header++) {
		if (header->p_type != PT_LOAD || !(header->p_flags & PF_W))
			continue;
		uintptr_t from = header->p_vaddr & -page, to = (header->p_vaddr + header->p_filesz + page - 1) & -page;
		madvise((void *)from, to - from, MADV_POPULATE_WRITE);
	}
}
