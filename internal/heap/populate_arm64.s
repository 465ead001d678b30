//go:build linux

#include "textflag.h"

// func populate(bytes, page uintptr)
TEXT ·populate(SB), 0, $4177920-16
	MOVD bytes+0(FP), R1
	MOVD page+8(FP), R3
	SUB  $1, R3
	MOVD RSP, R0
	ADD  R3, R0
	BIC  R3, R0
	MOVD $23, R2  // MADV_POPULATE_WRITE
	MOVD $233, R8 // madvise
	SVC
	RET
