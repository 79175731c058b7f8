// Package deduptest holds every backend of pkg/dedup to one behaviour.
//
// It knows a backend only by [dedup.Claims]; what a backend does when its server
// is away is for that backend's own tests.
package deduptest
