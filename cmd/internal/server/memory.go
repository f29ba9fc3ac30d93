package server

import "runtime/debug"

// gcPercent is how much garbage may gather before it is collected, as a part of what
// lives. What lives is for the most part the connections of idle agents: with Go's own
// 100, half of a server's memory would be garbage. It costs a storm of agents some per
// cent of its time.
const gcPercent = 40

// leanHeap sets that, unless the operator has set another (GOGC).
func leanHeap() {
	const goDefault = 100
	if set := debug.SetGCPercent(gcPercent); set != goDefault {
		debug.SetGCPercent(set)
	}
}
