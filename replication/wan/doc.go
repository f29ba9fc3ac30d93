// Package wan is the network between regions in one process: links that take their
// time, and that can be cut in each of the ways in which real ones are.
//
// A Link is a TCP proxy. It delays what passes by a latency without limiting how much
// passes, and it has faults:
//
//   - Reset: every connection is reset (RST), and new ones are refused, until Heal.
//   - Hold: nothing moves and nothing closes, not even the end of a connection, as
//     when a firewall forgets a connection or a cable is pulled. New connections are
//     accepted, as a kernel's backlog would, and get nothing. At Heal the held bytes
//     flow on, late but whole; to let held connections die instead, turn the Hold
//     into a Reset before.
//   - HoldForward, HoldBack: the same in one direction alone, for connections that are
//     there; a new one needs both directions, as TCP's opening does.
//
// A Net is the links between named regions, which it cuts by region.
//
// What a proxy cannot do is lose packets: the kernels on both sides go on to
// acknowledge what the link does not pass on. So TCP's own time-outs do not see a
// Hold, and whoever relies on them alone hangs: a hold here is the harsher case.
package wan
