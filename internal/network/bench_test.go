package network

import (
	"context"
	"io"
	"net"
	"testing"
)

func BenchmarkDownload(b *testing.B)       { benchmarkDownload(b, wideConnections) }
func BenchmarkNarrowDownload(b *testing.B) { benchmarkDownload(b, 0) }

func benchmarkDownload(b *testing.B, wide int) {
	n := namespace(b, Options{})
	n.out.tcpFlows.wide = wide
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

// Messages of a peer that waits for each answer.
func BenchmarkPingPong(b *testing.B) {
	n := namespace(b, Options{})
	addr := serve(b, hostAddr.String()+":0", func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	c, err := dial(b, n, "tcp", addr.String())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 20)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// Pieces as they arrive over a distance, and small ones.
func BenchmarkPackets(b *testing.B)  { benchmarkPieces(b, 1448) }
func BenchmarkMessages(b *testing.B) { benchmarkPieces(b, 20) }

func benchmarkPieces(b *testing.B, size int) {
	n := namespace(b, Options{})
	n.out.tcpFlows.wide = 0
	addr := serve(b, hostAddr.String()+":0", func(c *net.TCPConn) {
		for piece := make([]byte, size); ; {
			if _, err := c.Write(piece); err != nil {
				return
			}
		}
	})
	c, err := dial(b, n, "tcp", addr.String())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 1000*size)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if _, err := io.ReadFull(c, buf); err != nil {
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
