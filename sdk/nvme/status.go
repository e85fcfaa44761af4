package nvme

import "fmt"

// Status is the 15-bit status field of a completion: status code in bits 7:0, its type in
// bits 10:8, retry delay index in bits 12:11, More in bit 13, Do Not Retry in bit 14.
// The Status constants have a type and a code and no flags; compare with Code. A Status other
// than success is an error. Base 3.3.3.2.1
type Status uint16

// StatusType groups status codes (SCT). Base 3.3.3.2.1
type StatusType uint8

// Status types.
const (
	StatusGeneric         StatusType = 0
	StatusCommandSpecific StatusType = 1
	StatusMedia           StatusType = 2
	StatusPath            StatusType = 3
	StatusVendor          StatusType = 7
)

const (
	statusCRDShift = 11
	statusMore     = 1 << 13
	statusDNR      = 1 << 14
	statusCodeMask = 0x7ff
)

// MakeStatus returns the status of a type and a code, without flags.
func MakeStatus(sct StatusType, sc uint8) Status { return Status(sct&7)<<8 | Status(sc) }

// SC returns the status code.
func (s Status) SC() uint8 { return uint8(s) }

// SCT returns the status code type.
func (s Status) SCT() StatusType { return StatusType(s>>8) & 7 }

// Code returns type and code without flags, to be compared with the Status constants.
func (s Status) Code() Status { return s & statusCodeMask }

// OK reports success, whatever the flags.
func (s Status) OK() bool { return s&statusCodeMask == 0 }

// DNR reports Do Not Retry: the same command would fail again.
func (s Status) DNR() bool { return bit(s, statusDNR) }

// WithDNR returns the status with Do Not Retry set.
func (s Status) WithDNR() Status { return s | statusDNR }

// More reports that the Error Information log page has more about this command.
func (s Status) More() bool { return bit(s, statusMore) }

// WithMore returns the status with More set.
func (s Status) WithMore() Status { return s | statusMore }

// CRD returns the command retry delay index: 0 for none, 1 to 3 for CRDT1 to CRDT3 of the
// Identify Controller data. Base 3.3.3.2.1
func (s Status) CRD() uint8 { return uint8(s>>statusCRDShift) & 3 }

// WithCRD returns the status with this retry delay index (0 to 3).
func (s Status) WithCRD(i uint8) Status {
	return s&^(3<<statusCRDShift) | Status(i&3)<<statusCRDShift
}

// IsPath reports a path related status: a host with another path retries there.
func (s Status) IsPath() bool { return s.SCT() == StatusPath }

// Err returns nil for success, else s.
func (s Status) Err() error {
	if s.OK() {
		return nil
	}
	return s
}

// Error makes a Status an error.
func (s Status) Error() string { return "nvme status: " + s.String() }

// Is makes errors.Is ignore the flags: errors.Is(err, StatusInvalidField).
func (s Status) Is(target error) bool {
	t, ok := target.(Status)
	return ok && t.Code() == s.Code()
}

// String names the code and its flags.
func (s Status) String() string {
	name, ok := statusNames[s.Code()]
	if !ok {
		name = "unknown"
	}
	name = fmt.Sprintf("%s (%d/%02xh", name, s.SCT(), s.SC())
	if s.DNR() {
		name += ", do not retry"
	}
	return name + ")"
}

// Generic command status. Base 3.3.3.2.1; 80h and above also NVM 3.1
const (
	StatusSuccess                  Status = 0x000
	StatusInvalidOpcode            Status = 0x001
	StatusInvalidField             Status = 0x002
	StatusCommandIDConflict        Status = 0x003
	StatusDataTransferError        Status = 0x004
	StatusPowerLossAbort           Status = 0x005
	StatusInternalError            Status = 0x006
	StatusAbortRequested           Status = 0x007
	StatusAbortSQDeletion          Status = 0x008
	StatusAbortFailedFused         Status = 0x009
	StatusAbortMissingFused        Status = 0x00a
	StatusInvalidNamespace         Status = 0x00b
	StatusSequenceError            Status = 0x00c
	StatusInvalidSGLSegment        Status = 0x00d
	StatusInvalidSGLCount          Status = 0x00e
	StatusInvalidSGLLength         Status = 0x00f
	StatusInvalidMetadataSGLLength Status = 0x010
	StatusInvalidSGLType           Status = 0x011
	StatusInvalidCMBUse            Status = 0x012
	StatusInvalidPRPOffset         Status = 0x013
	StatusAtomicWriteUnitExceeded  Status = 0x014
	StatusOperationDenied          Status = 0x015
	StatusInvalidSGLOffset         Status = 0x016
	StatusHostIDFormat             Status = 0x018
	StatusKeepAliveExpired         Status = 0x019
	StatusInvalidKeepAlive         Status = 0x01a
	StatusAbortPreempt             Status = 0x01b
	StatusSanitizeFailed           Status = 0x01c
	StatusSanitizeInProgress       Status = 0x01d
	StatusInvalidSGLGranularity    Status = 0x01e
	StatusCMBQueueUnsupported      Status = 0x01f
	StatusNamespaceWriteProtected  Status = 0x020
	StatusCommandInterrupted       Status = 0x021
	StatusTransientTransportError  Status = 0x022
	StatusProhibitedByLockdown     Status = 0x023
	StatusAdminMediaNotReady       Status = 0x024
	StatusLBAOutOfRange            Status = 0x080
	StatusCapacityExceeded         Status = 0x081
	StatusNamespaceNotReady        Status = 0x082
	StatusReservationConflict      Status = 0x083
	StatusFormatInProgress         Status = 0x084
)

// Command specific status. Base 3.3.3.2.1
const (
	StatusInvalidCQ                       Status = 0x100
	StatusInvalidQueueID                  Status = 0x101
	StatusInvalidQueueSize                Status = 0x102
	StatusAbortLimitExceeded              Status = 0x103
	StatusAsyncEventLimitExceeded         Status = 0x105
	StatusInvalidFirmwareSlot             Status = 0x106
	StatusInvalidFirmwareImage            Status = 0x107
	StatusInvalidInterruptVector          Status = 0x108
	StatusInvalidLogPage                  Status = 0x109
	StatusInvalidFormat                   Status = 0x10a
	StatusFirmwareNeedsReset              Status = 0x10b
	StatusInvalidQueueDeletion            Status = 0x10c
	StatusFeatureNotSaveable              Status = 0x10d
	StatusFeatureNotChangeable            Status = 0x10e
	StatusFeatureNotNamespaceSpecific     Status = 0x10f
	StatusFirmwareNeedsSubsystemReset     Status = 0x110
	StatusFirmwareNeedsControllerReset    Status = 0x111
	StatusFirmwareNeedsMaxTime            Status = 0x112
	StatusFirmwareActivationProhibited    Status = 0x113
	StatusOverlappingRange                Status = 0x114
	StatusNamespaceInsufficientCapacity   Status = 0x115
	StatusNamespaceIDUnavailable          Status = 0x116
	StatusNamespaceAlreadyAttached        Status = 0x118
	StatusNamespaceIsPrivate              Status = 0x119
	StatusNamespaceNotAttached            Status = 0x11a
	StatusThinProvisioningUnsupported     Status = 0x11b
	StatusInvalidControllerList           Status = 0x11c
	StatusSelfTestInProgress              Status = 0x11d
	StatusBootPartitionWriteProhibited    Status = 0x11e
	StatusInvalidControllerID             Status = 0x11f
	StatusInvalidSecondaryControllerState Status = 0x120
	StatusInvalidControllerResources      Status = 0x121
	StatusInvalidResourceID               Status = 0x122
	StatusSanitizeProhibitedPMR           Status = 0x123
	StatusInvalidANAGroupID               Status = 0x124
	StatusANAAttachFailed                 Status = 0x125
	StatusInsufficientCapacity            Status = 0x126
	StatusAttachmentLimitExceeded         Status = 0x127
	StatusLockdownUnsupported             Status = 0x128
	StatusIOCommandSetUnsupported         Status = 0x129
	StatusIOCommandSetNotEnabled          Status = 0x12a
	StatusIOCommandSetCombinationRejected Status = 0x12b
	StatusInvalidIOCommandSet             Status = 0x12c
	StatusIdentifierUnavailable           Status = 0x12d
)

// Command specific status of NVM I/O commands. NVM 3.1
const (
	StatusConflictingAttributes Status = 0x180
	StatusInvalidProtectionInfo Status = 0x181
	StatusWriteToReadOnlyRange  Status = 0x182
	StatusSizeLimitExceeded     Status = 0x183
)

// Command specific status of Fabrics commands; they share values with those of I/O commands.
// Base 6
const (
	StatusConnectIncompatibleFormat  Status = 0x180
	StatusConnectControllerBusy      Status = 0x181
	StatusConnectInvalidParameters   Status = 0x182
	StatusConnectRestartDiscovery    Status = 0x183
	StatusConnectInvalidHost         Status = 0x184
	StatusDisconnectInvalidQueueType Status = 0x185
	StatusDiscoverRestart            Status = 0x190
	StatusAuthenticationRequired     Status = 0x191
)

// Media and data integrity errors. Base 3.3.3.2.1, NVM 3.1
const (
	StatusWriteFault               Status = 0x280
	StatusUnrecoveredReadError     Status = 0x281
	StatusGuardCheckError          Status = 0x282
	StatusApplicationTagCheckError Status = 0x283
	StatusReferenceTagCheckError   Status = 0x284
	StatusCompareFailure           Status = 0x285
	StatusAccessDenied             Status = 0x286
	StatusUnwrittenBlock           Status = 0x287
	StatusStorageTagCheckError     Status = 0x288
)

// Path related status. Base 3.3.3.2.1
const (
	StatusInternalPathError   Status = 0x300
	StatusANAPersistentLoss   Status = 0x301
	StatusANAInaccessible     Status = 0x302
	StatusANATransition       Status = 0x303
	StatusControllerPathError Status = 0x360
	StatusHostPathError       Status = 0x370
	StatusAbortedByHost       Status = 0x371
)

var statusNames = map[Status]string{
	StatusSuccess:                         "success",
	StatusInvalidOpcode:                   "invalid command opcode",
	StatusInvalidField:                    "invalid field in command",
	StatusCommandIDConflict:               "command ID conflict",
	StatusDataTransferError:               "data transfer error",
	StatusPowerLossAbort:                  "aborted due to power loss notification",
	StatusInternalError:                   "internal error",
	StatusAbortRequested:                  "command abort requested",
	StatusAbortSQDeletion:                 "aborted due to SQ deletion",
	StatusAbortFailedFused:                "aborted due to failed fused command",
	StatusAbortMissingFused:               "aborted due to missing fused command",
	StatusInvalidNamespace:                "invalid namespace or format",
	StatusSequenceError:                   "command sequence error",
	StatusInvalidSGLSegment:               "invalid SGL segment descriptor",
	StatusInvalidSGLCount:                 "invalid number of SGL descriptors",
	StatusInvalidSGLLength:                "data SGL length invalid",
	StatusInvalidMetadataSGLLength:        "metadata SGL length invalid",
	StatusInvalidSGLType:                  "SGL descriptor type invalid",
	StatusInvalidCMBUse:                   "invalid use of controller memory buffer",
	StatusInvalidPRPOffset:                "PRP offset invalid",
	StatusAtomicWriteUnitExceeded:         "atomic write unit exceeded",
	StatusOperationDenied:                 "operation denied",
	StatusInvalidSGLOffset:                "SGL offset invalid",
	StatusHostIDFormat:                    "host identifier inconsistent format",
	StatusKeepAliveExpired:                "keep alive timer expired",
	StatusInvalidKeepAlive:                "keep alive timeout invalid",
	StatusAbortPreempt:                    "aborted due to preempt and abort",
	StatusSanitizeFailed:                  "sanitize failed",
	StatusSanitizeInProgress:              "sanitize in progress",
	StatusInvalidSGLGranularity:           "SGL data block granularity invalid",
	StatusCMBQueueUnsupported:             "command not supported for queue in CMB",
	StatusNamespaceWriteProtected:         "namespace is write protected",
	StatusCommandInterrupted:              "command interrupted",
	StatusTransientTransportError:         "transient transport error",
	StatusProhibitedByLockdown:            "command prohibited by command and feature lockdown",
	StatusAdminMediaNotReady:              "admin command media not ready",
	StatusLBAOutOfRange:                   "LBA out of range",
	StatusCapacityExceeded:                "capacity exceeded",
	StatusNamespaceNotReady:               "namespace not ready",
	StatusReservationConflict:             "reservation conflict",
	StatusFormatInProgress:                "format in progress",
	StatusInvalidCQ:                       "completion queue invalid",
	StatusInvalidQueueID:                  "invalid queue identifier",
	StatusInvalidQueueSize:                "invalid queue size",
	StatusAbortLimitExceeded:              "abort command limit exceeded",
	StatusAsyncEventLimitExceeded:         "asynchronous event request limit exceeded",
	StatusInvalidFirmwareSlot:             "invalid firmware slot",
	StatusInvalidFirmwareImage:            "invalid firmware image",
	StatusInvalidInterruptVector:          "invalid interrupt vector",
	StatusInvalidLogPage:                  "invalid log page",
	StatusInvalidFormat:                   "invalid format",
	StatusFirmwareNeedsReset:              "firmware activation requires conventional reset",
	StatusInvalidQueueDeletion:            "invalid queue deletion",
	StatusFeatureNotSaveable:              "feature identifier not saveable",
	StatusFeatureNotChangeable:            "feature not changeable",
	StatusFeatureNotNamespaceSpecific:     "feature not namespace specific",
	StatusFirmwareNeedsSubsystemReset:     "firmware activation requires NVM subsystem reset",
	StatusFirmwareNeedsControllerReset:    "firmware activation requires controller level reset",
	StatusFirmwareNeedsMaxTime:            "firmware activation requires maximum time violation",
	StatusFirmwareActivationProhibited:    "firmware activation prohibited",
	StatusOverlappingRange:                "overlapping range",
	StatusNamespaceInsufficientCapacity:   "namespace insufficient capacity",
	StatusNamespaceIDUnavailable:          "namespace identifier unavailable",
	StatusNamespaceAlreadyAttached:        "namespace already attached",
	StatusNamespaceIsPrivate:              "namespace is private",
	StatusNamespaceNotAttached:            "namespace not attached",
	StatusThinProvisioningUnsupported:     "thin provisioning not supported",
	StatusInvalidControllerList:           "controller list invalid",
	StatusSelfTestInProgress:              "device self-test in progress",
	StatusBootPartitionWriteProhibited:    "boot partition write prohibited",
	StatusInvalidControllerID:             "invalid controller identifier",
	StatusInvalidSecondaryControllerState: "invalid secondary controller state",
	StatusInvalidControllerResources:      "invalid number of controller resources",
	StatusInvalidResourceID:               "invalid resource identifier",
	StatusSanitizeProhibitedPMR:           "sanitize prohibited while persistent memory region is enabled",
	StatusInvalidANAGroupID:               "ANA group identifier invalid",
	StatusANAAttachFailed:                 "ANA attach failed",
	StatusInsufficientCapacity:            "insufficient capacity",
	StatusAttachmentLimitExceeded:         "namespace attachment limit exceeded",
	StatusLockdownUnsupported:             "prohibition of command execution not supported",
	StatusIOCommandSetUnsupported:         "I/O command set not supported",
	StatusIOCommandSetNotEnabled:          "I/O command set not enabled",
	StatusIOCommandSetCombinationRejected: "I/O command set combination rejected",
	StatusInvalidIOCommandSet:             "invalid I/O command set",
	StatusIdentifierUnavailable:           "identifier unavailable",
	StatusConflictingAttributes:           "conflicting attributes or connect incompatible format",
	StatusInvalidProtectionInfo:           "invalid protection information or connect controller busy",
	StatusWriteToReadOnlyRange:            "attempted write to read only range or connect invalid parameters",
	StatusSizeLimitExceeded:               "command size limit exceeded or connect restart discovery",
	StatusConnectInvalidHost:              "connect invalid host",
	StatusDisconnectInvalidQueueType:      "invalid queue type",
	StatusDiscoverRestart:                 "discover restart",
	StatusAuthenticationRequired:          "authentication required",
	StatusWriteFault:                      "write fault",
	StatusUnrecoveredReadError:            "unrecovered read error",
	StatusGuardCheckError:                 "end-to-end guard check error",
	StatusApplicationTagCheckError:        "end-to-end application tag check error",
	StatusReferenceTagCheckError:          "end-to-end reference tag check error",
	StatusCompareFailure:                  "compare failure",
	StatusAccessDenied:                    "access denied",
	StatusUnwrittenBlock:                  "deallocated or unwritten logical block",
	StatusStorageTagCheckError:            "end-to-end storage tag check error",
	StatusInternalPathError:               "internal path error",
	StatusANAPersistentLoss:               "asymmetric access persistent loss",
	StatusANAInaccessible:                 "asymmetric access inaccessible",
	StatusANATransition:                   "asymmetric access transition",
	StatusControllerPathError:             "controller pathing error",
	StatusHostPathError:                   "host pathing error",
	StatusAbortedByHost:                   "command aborted by host",
}
