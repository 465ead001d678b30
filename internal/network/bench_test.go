package network

import (
	"context"
	"io"
	"net"
	"testing"
)

func BenchmarkDownload(b *testing.B) {
	n := namespace(b, Options{})
	addr := serve(b, hostAddr.String()+":0", func(c *net.TCPConn) {
		buf := make([]byte, 1<<20)
		for {
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	})
	c, err := dial(b, n, "tcp", addr.String())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUpload(b *testing.B) {
	n := namespace(b, Options{})
	addr := serve(b, hostAddr.String()+":0", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	c, err := dial(b, n, "tcp", addr.String())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnect(b *testing.B) {
	n := namespace(b, Options{})
	addr := serve(b, hostAddr.String()+":0", hello)
	for b.Loop() {
		c, err := dial(b, n, "tcp", addr.String())
		if err != nil {
			b.Fatal(err)
		}
		if text, err := io.ReadAll(c); err != nil || string(text) != "hello" {
			b.Fatal(err, text)
		}
		_ = c.Close()
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		n, err := New(Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := n.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
