// Package certs keeps the certificates of TLS up to date while the platform runs.
//
// It promises that a changed file is in force within [CheckEvery] for new
// connections, that files which cannot be read or do not fit each other change
// nothing (what was good stays), and that no key is ever in an error.
//
// It issues nothing and watches no directory: files are looked at when somebody
// connects.
package certs
