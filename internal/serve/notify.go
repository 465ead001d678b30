package serve

import (
	"net"
	"os"
)

// Notifier tells systemd how a service is.
type Notifier struct{ addr string }

// NewNotifier takes the address out of the environment, which would tell runc's containers, too.
func NewNotifier() *Notifier {
	n := &Notifier{os.Getenv("NOTIFY_SOCKET")}
	_ = os.Unsetenv("NOTIFY_SOCKET")
	return n
}

// Tell says "READY=1", "STOPPING=1". Nobody may be there to hear it.
func (n *Notifier) Tell(state string) {
	if n.addr == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.addr, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
