// Package console serves the page on which an operator sees how the key store of a
// policy server stands: its rings with every key's life on a time line, policy
// servers and how fresh they are, agents, alarms, and the last events.
//
// It only reads, and through the same interface as the admin API, whose types
// cannot hold key bytes. The page is whole without JavaScript; the script only
// exchanges the parts of it that have changed, says how old the page is, and says
// so when the server no longer answers. Nothing is inline: the content security
// policy allows this server's own script and style sheet alone.
//
// A browser signs in with an admin token and gets a session of its own, for eight
// hours at the most. Sessions live in the server's memory, as hashes: a restart
// ends them all. A browser sends a cookie to every port of a host, so a server on
// another port of the same host gets to see the session's: it opens this page, and
// never the admin API.
package console
