// Package house holds tests of the project rather than of a part of it: which
// package may import which, what code may not do anywhere, that documents name
// what exists, that the files for containers fit the binary.
//
// It promises that a rule of the project is either checked here or by the
// linter, so that a reader can rely on it. It has no code to import, and keeps
// no exceptions but those that stand, with their reason, beside the rule.
package house
