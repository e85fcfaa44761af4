package iscsi

import "fmt"

// TaskFunction is what a task management request asks for. 11.5.1
type TaskFunction uint8

// The functions. QueryTask and those behind it are for sessions with TaskReporting, which we do
// not negotiate.
const (
	AbortTask       TaskFunction = 1
	AbortTaskSet    TaskFunction = 2
	ClearACA        TaskFunction = 3
	ClearTaskSet    TaskFunction = 4
	LogicalReset    TaskFunction = 5
	TargetWarmReset TaskFunction = 6
	TargetColdReset TaskFunction = 7
	TaskReassign    TaskFunction = 8
)

// String names the function.
func (f TaskFunction) String() string {
	names := [...]string{
		AbortTask: "abort task", AbortTaskSet: "abort task set", ClearACA: "clear ACA", ClearTaskSet: "clear task set",
		LogicalReset: "logical unit reset", TargetWarmReset: "target warm reset", TargetColdReset: "target cold reset",
		TaskReassign: "task reassign",
	}
	if int(f) < len(names) && names[f] != "" {
		return names[f]
	}
	return fmt.Sprintf("task management function %d", uint8(f))
}

// TaskRequest is a Task Management Function Request PDU. 11.5
type TaskRequest struct {
	Order
	Function TaskFunction
	LUN      LUN
	ITT      TaskTag
	RefTag   TaskTag // the task to abort; NoTag where there is none
	RefCmdSN SN      // of that task
}

// ParseTaskRequest decodes the first HeaderSize bytes of b.
func ParseTaskRequest(b []byte) (TaskRequest, int, error) {
	if len(b) < HeaderSize {
		return TaskRequest{}, 0, short(OpTaskRequest, b)
	}
	return TaskRequest{
		Order: parseOrder(b), Function: TaskFunction(b[1] & 0x7f), LUN: LUN(b[8:16]), ITT: TaskTag(be.Uint32(b[16:])),
		RefTag: TaskTag(be.Uint32(b[20:])), RefCmdSN: SN(be.Uint32(b[32:])),
	}, HeaderSize, nil
}

// Append appends the header.
func (t *TaskRequest) Append(b []byte) []byte {
	b, p := begin(b, OpTaskRequest, finalBit|byte(t.Function&0x7f), 0)
	t.put(p)
	copy(p[8:], t.LUN[:])
	be.PutUint32(p[16:], uint32(t.ITT))
	be.PutUint32(p[20:], uint32(t.RefTag))
	be.PutUint32(p[32:], uint32(t.RefCmdSN))
	return b
}

// Len is HeaderSize.
func (t *TaskRequest) Len() int { return HeaderSize }

// TaskResult is how a task management function ended. 11.6.1
type TaskResult uint8

// The results.
const (
	TaskComplete       TaskResult = 0
	TaskDoesNotExist   TaskResult = 1
	TaskNoLUN          TaskResult = 2
	TaskStillAllegiant TaskResult = 3
	TaskNoReassign     TaskResult = 4
	TaskNotSupported   TaskResult = 5
	TaskNotAuthorized  TaskResult = 6
	TaskRejected       TaskResult = 255
)

// TaskResponse is a Task Management Function Response PDU. 11.6
type TaskResponse struct {
	Window
	Result TaskResult
	ITT    TaskTag
}

// ParseTaskResponse decodes the first HeaderSize bytes of b.
func ParseTaskResponse(b []byte) (TaskResponse, int, error) {
	if len(b) < HeaderSize {
		return TaskResponse{}, 0, short(OpTaskResponse, b)
	}
	return TaskResponse{Window: parseWindow(b), Result: TaskResult(b[2]), ITT: TaskTag(be.Uint32(b[16:]))}, HeaderSize, nil
}

// Append appends the header.
func (t *TaskResponse) Append(b []byte) []byte {
	b, p := begin(b, OpTaskResponse, finalBit, 0)
	p[2] = byte(t.Result)
	t.put(p)
	be.PutUint32(p[16:], uint32(t.ITT))
	return b
}

// Len is HeaderSize.
func (t *TaskResponse) Len() int { return HeaderSize }
