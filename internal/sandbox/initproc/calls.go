package initproc

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Calls is a list of system calls for a first process, which makes them one after the other.
type Calls struct {
	list     []*Call
	data     []byte
	pointers []int    // places of pointers in data
	nul      []string // texts that are none in C
}

// Call is one of a list.
type Call struct {
	number   int
	What     string // what it does, for an error
	trap     uintptr
	args     [6]int64
	kinds    [8]byte
	forgiven [6]int32
	when     int32
	result   int32
}

// Kinds of arguments, as in program.c.
const (
	value = iota
	place
	result
)

// Socket is the descriptor of the first process that leads to [First.Socket]. It is the last one that is open.
const Socket = 3

// Place is where something is in the message.
type Place int

// layout of a message in program.c
const (
	headSize = 16
	callSize = 8 + 6*8 + 6*4 + 2*4 + 8
)

// Add appends a system call. An argument is an int, a string, a [Place], a *Call, which stands for its result, or nil.
func (c *Calls) Add(what string, trap uintptr, args ...any) *Call {
	call := &Call{number: len(c.list), What: what, trap: trap, when: -1}
	for i, arg := range args {
		switch arg := arg.(type) {
		case nil:
		case int:
			call.args[i] = int64(arg)
		case string:
			call.args[i], call.kinds[i] = int64(c.Text(arg)), place
		case Place:
			call.args[i], call.kinds[i] = int64(arg), place
		case *Call:
			call.args[i], call.kinds[i] = int64(arg.number), result
		default:
			panic(fmt.Sprintf("an argument of %s is a %T", what, arg))
		}
	}
	c.list = append(c.list, call)
	return call
}

// Forgive names errors after which the list goes on.
func (c *Call) Forgive(errnos ...unix.Errno) *Call {
	for i, e := range errnos {
		c.forgiven[i] = int32(e)
	}
	return c
}

// After has the call made only if another one, which forgives it, failed with an error; 0 is that it gave 0.
func (c *Call) After(other *Call, errno unix.Errno) *Call {
	c.when, c.result = int32(other.number), -int32(errno)
	return c
}

// Bytes are data, aligned.
func (c *Calls) Bytes(b []byte) Place {
	for len(c.data)%8 != 0 {
		c.data = append(c.data, 0)
	}
	at := Place(len(c.data))
	c.data = append(c.data, b...)
	return at
}

// Text is a string as C has them: where it would end early there is no message.
func (c *Calls) Text(s string) Place {
	if strings.ContainsRune(s, 0) {
		c.nul = append(c.nul, s)
	}
	at := Place(len(c.data))
	c.data = append(append(c.data, s...), 0)
	return at
}

// Words are machine words; a [Place] among them is a pointer.
func (c *Calls) Words(words ...any) Place {
	var b []byte
	var pointers []int
	for _, w := range words {
		switch w := w.(type) {
		case int:
			b = binary.NativeEndian.AppendUint64(b, uint64(w))
		case Place:
			pointers = append(pointers, len(b))
			b = binary.NativeEndian.AppendUint64(b, uint64(w))
		}
	}
	at := c.Bytes(b)
	for _, p := range pointers {
		c.pointers = append(c.pointers, int(at)+p)
	}
	return at
}

// Strings are an array of pointers to strings, with none at its end.
func (c *Calls) Strings(list []string) Place {
	var words []any
	for _, s := range list {
		words = append(words, c.Text(s))
	}
	return c.Words(append(words, 0)...)
}

// Call is the call with a number that [Failed] has.
func (c *Calls) Call(number int) *Call {
	if number < 0 || number >= len(c.list) {
		return &Call{What: "executing the first process"}
	}
	return c.list[number]
}

// Message is what program.c reads: a head, the calls, the places of pointers, and the data.
func (c *Calls) Message() ([]byte, error) {
	if len(c.nul) > 0 {
		return nil, fmt.Errorf("%q has a NUL character, which no program can be given: %w", c.nul[0], unix.EINVAL)
	}
	e := binary.NativeEndian
	data := headSize + callSize*len(c.list) + 8*len(c.pointers)
	size := (data + len(c.data) + 7) &^ 7
	m := make([]byte, 0, size)
	m = e.AppendUint64(m, uint64(size))
	m = e.AppendUint32(m, uint32(len(c.list)))
	m = e.AppendUint32(m, uint32(len(c.pointers)))
	for _, call := range c.list {
		m = e.AppendUint64(m, uint64(call.trap))
		for i, arg := range call.args {
			if call.kinds[i] == place {
				arg += int64(data)
			}
			m = e.AppendUint64(m, uint64(arg))
		}
		for _, errno := range call.forgiven {
			m = e.AppendUint32(m, uint32(errno))
		}
		m = e.AppendUint32(m, uint32(call.when))
		m = e.AppendUint32(m, uint32(call.result))
		m = append(m, call.kinds[:]...)
	}
	content := append(make([]byte, 0, len(c.data)), c.data...)
	for _, p := range c.pointers {
		m = e.AppendUint64(m, uint64(data+p))
		e.PutUint64(content[p:], e.Uint64(content[p:])+uint64(data))
	}
	return append(m, content...)[:size:size], nil
}
