// Package replay holds the jobs that deliver stored events again: which events, to
// whom, how fast, and how far they are.
//
// A job is an entry of KV bucket jobs and nothing else. Whoever works on it writes
// its progress there at least once a second, so that another can go on where it was
// left; what a job has written as queued is queued. Every write is a compare and set,
// so two who take the same job for theirs find out at the next write.
//
// The package does not deliver anything, and keeps no record of which events a job
// delivered: their traces have it, under the job's round.
package replay
