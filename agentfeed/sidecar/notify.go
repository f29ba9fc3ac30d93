package sidecar

import "net"

// notify tells the service manager of a change, as sd_notify(3) does. Without a
// socket it does nothing.
func notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	// A name that begins with "@" is in the abstract name space, for net.Dial as well.
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
