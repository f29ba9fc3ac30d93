// Package e2e tests Keytide from outside: real processes, real TLS, real files,
// killed with -9 where the promise says that they may be. It imports no more of
// the product than its users can.
package e2e
