//go:build cgo

package layer

/*
#include <pthread.h>
#include <signal.h>
#include <stddef.h>

// Of zstd.h, which is in the module that carries libzstd's sources and not where a compiler finds it; all of it is of
// libzstd's stable interface.
typedef struct { void *dst; size_t size, pos; } ZSTD_outBuffer;
typedef struct { const void *src; size_t size, pos; } ZSTD_inBuffer;
typedef struct ZSTD_CCtx_s ZSTD_CCtx;
ZSTD_CCtx *ZSTD_createCCtx(void);
size_t ZSTD_freeCCtx(ZSTD_CCtx *);
size_t ZSTD_CCtx_setParameter(ZSTD_CCtx *, int, int);
size_t ZSTD_compressStream2(ZSTD_CCtx *, ZSTD_outBuffer *, ZSTD_inBuffer *, int);
unsigned ZSTD_isError(size_t);
const char *ZSTD_getErrorName(size_t);
enum { level = 100, windowLog = 101, hashLog = 102, chainLog = 103, longDistance = 160, nbWorkers = 400, jobSize = 401, overlapLog = 402 };
enum { going = 0, end = 2 };

// open returns a stream, or NULL and what libzstd says. Its threads start here, with all signals blocked: they are Go's.
static ZSTD_CCtx *open(int lvl, int window, int hash, int chain, int workers, int job, int overlap, size_t *err) {
	ZSTD_CCtx *c = ZSTD_createCCtx();
	ZSTD_inBuffer in = {0};
	ZSTD_outBuffer out = {0};
	sigset_t all, before;
	*err = 0;
	if (c == NULL)
		return NULL;
	(void)(ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, level, lvl)) ||
		ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, windowLog, window)) ||
		ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, hashLog, hash)) || // 0 is the level's own
		ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, chainLog, chain)) ||
		ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, longDistance, 1)) ||
		ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, nbWorkers, workers)) ||
		ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, jobSize, job)) ||
		ZSTD_isError(*err = ZSTD_CCtx_setParameter(c, overlapLog, overlap)));
	if (!ZSTD_isError(*err)) {
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		*err = ZSTD_compressStream2(c, &out, &in, going);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	if (ZSTD_isError(*err)) {
		ZSTD_freeCCtx(c);
		return NULL;
	}
	return c;
}

typedef struct { size_t left, read, written; } result;

// step compresses some of src and gives what has become of it and of what came before.
static result step(ZSTD_CCtx *c, void *dst, size_t room, const void *src, size_t size, int how) {
	ZSTD_outBuffer out = {dst, room, 0};
	ZSTD_inBuffer in = {src, size, 0};
	result r = {ZSTD_compressStream2(c, &out, &in, how), 0, 0};
	r.read = in.pos;
	r.written = out.pos;
	return r;
}
*/
import "C"

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"unsafe"

	_ "github.com/DataDog/zstd" // libzstd, whose sources are part of the module
)

// libzstd compresses pieces of the input, jobs, on threads of its own. Where one ends depends on the sizes below alone, so
// the bytes do not depend on how many threads there are. A job is told what came right before it, and finds what comes again
// in all of the window (long distance matching), as a file that several packages have: the tables of the lower levels
// remember less than that.
const (
	zstdWindowLog  = 23      // 8 MiB, which every decoder reads; klauspost's encoder, which is BuildKit's, has as much at its usual level
	zstdBetterLog  = 24      // 16 MiB, as that encoder has at its better level
	zstdBestLog    = 25      // 32 MiB, as that encoder has at its best level
	zstdJob        = 2 << 20 // bytes of the input
	zstdMaxWorkers = 8       // each takes some 6 MB; so many compress more than one core digests
)

// zstdMostEffort is the last level that is there for a window of 8 MiB: those above are of larger ones, and take more than a gigabyte.
const zstdMostEffort = 19

// Beyond this level a worker takes up to 100 MB, so there are no more than so many.
const (
	zstdThrifty        = 12
	zstdThriftyWorkers = 2
)

// zstdEffort is what libzstd is to do for a level.
type zstdEffort struct {
	level   int // libzstd's
	overlap int // how much a job is told of what came before: 9 is the whole window if a job has room for it, each number below half of the next
	// hash and chain are the sizes of its tables, as powers of two; 0 is the level's own.
	hash, chain int
	window      int // how far back it looks, as a power of two
}

// zstdEffortOf gives what compresses as well as klauspost's encoder, which is BuildKit's and has four levels for all of zstd's. At
// the lowest number of each, libzstd would compress a little less, so there it tries harder, but for the usual level: there
// smaller tables do, which stay in a core's cache.
func zstdEffortOf(level int) zstdEffort {
	switch {
	case level == 1:
		return zstdEffort{level: 2, overlap: 7, window: zstdWindowLog}
	case level == 3:
		return zstdEffort{level: 3, overlap: 7, hash: 16, chain: 15, window: zstdWindowLog}
	case level < 6:
		return zstdEffort{level: level, overlap: 7, window: zstdWindowLog}
	case level < 10:
		return zstdEffort{level: level, overlap: 6, window: zstdBetterLog} // of a window twice as large, as much as before
	case level == 10:
		return zstdEffort{level: 11, overlap: 8, window: zstdBestLog}
	}
	return zstdEffort{level: min(level, zstdMostEffort), overlap: 8, window: zstdBestLog}
}

// zstdWriter compresses with libzstd. The bytes depend on slipway's version and not on what is installed where it
// is built. Only compressing is left to it: what came from others is read in Go.
type zstdWriter struct {
	w   io.Writer
	c   *C.ZSTD_CCtx
	out []byte
	err error
}

func newZstdWriter(w io.Writer, level int) (io.WriteCloser, error) {
	workers := min(runtime.GOMAXPROCS(0), zstdMaxWorkers)
	if level > zstdThrifty {
		workers = min(workers, zstdThriftyWorkers)
	}
	effort := zstdEffortOf(level)
	z := &zstdWriter{w: w, out: make([]byte, 128<<10)}
	var code C.size_t
	if z.c = C.open(C.int(effort.level), C.int(effort.window), C.int(effort.hash), C.int(effort.chain), C.int(workers), zstdJob, C.int(effort.overlap), &code); z.c == nil {
		return nil, zstdError(code)
	}
	return z, nil
}

func zstdError(code C.size_t) error {
	if C.ZSTD_isError(code) == 0 {
		return errors.New("compressing with zstd: there is no memory for it")
	}
	return fmt.Errorf("compressing with zstd: %s", C.GoString(C.ZSTD_getErrorName(code)))
}

func (z *zstdWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		k, _ := z.step(p[n:], C.going)
		n += k
		if z.err != nil {
			return n, z.err
		}
	}
	return n, nil
}

// step hands bytes to libzstd, as many as it takes, and writes what it has ready; left is how much of that it still has.
func (z *zstdWriter) step(p []byte, how C.int) (taken int, left bool) {
	if z.err != nil {
		return 0, false
	}
	r := C.step(z.c, unsafe.Pointer(unsafe.SliceData(z.out)), C.size_t(len(z.out)), unsafe.Pointer(unsafe.SliceData(p)), C.size_t(len(p)), how)
	if C.ZSTD_isError(r.left) != 0 {
		z.err = zstdError(r.left)
	} else if r.written > 0 {
		_, z.err = z.w.Write(z.out[:r.written])
	}
	return int(r.read), r.left > 0
}

// Close finishes the stream, and ends its threads in any case.
func (z *zstdWriter) Close() error {
	if z.c == nil {
		return z.err
	}
	for left := true; left && z.err == nil; {
		_, left = z.step(nil, C.end)
	}
	C.ZSTD_freeCCtx(z.c)
	z.c = nil
	return z.err
}
