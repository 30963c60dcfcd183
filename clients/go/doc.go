// Package sentinel is the Go client of a Sentinel gateway: search by text, image or vector, and
// storing of items.
//
// It is a thin layer on the generated stubs, which [Client] holds as fields. Every call, also one
// of a stub, has a deadline, a request id, retries if a repeat is safe, and errors of type [*Error].
package sentinel

//go:generate buf generate
