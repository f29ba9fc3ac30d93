// Package schedule computes the slots of a keystore.Schedule: the instants at which
// a ring rolls over by itself.
//
// A daily, weekly or cron schedule is a set of wall-clock times. Each of them gives
// the first instant at which the zone's wall clock shows that time or a later one.
// So a time that a clock change skips gives the instant after the gap, several
// skipped ones give one slot, and a time that comes twice gives its first coming.
//
// An "every" schedule counts elapsed time from the slot, rollover or change of policy
// before, whatever the wall clock does.
//
// A slot that a blackout window covers moves to the first instant that none covers;
// several that arrive there are one. What counts is what the wall clock shows: an
// hour that comes twice is covered twice.
//
// The package is pure: no clock, no randomness. It reads the time zone database
// (Go's: ZONEINFO, the system's, then the embedded one) at Compile. Two servers with
// different databases may compute different slots, so a slot is computed once, by the
// server that writes an event, and committed with it; the others compare.
package schedule
