//go:build linux

#include "textflag.h"

// func populate(bytes, page uintptr)
TEXT ·populate(SB), 0, $4177920-16
	MOVQ bytes+0(FP), SI
	MOVQ page+8(FP), AX
	DECQ AX
	LEAQ 0(SP), DI
	ADDQ AX, DI
	NOTQ AX
	ANDQ AX, DI
	MOVL $23, DX // MADV_POPULATE_WRITE
	MOVL $28, AX // madvise
	SYSCALL
	RET
