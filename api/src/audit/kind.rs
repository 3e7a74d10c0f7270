//! The kinds of events: what can happen, in the past tense.
//!
//! Owns their spelling, which the store keeps for ever: a kind is added, never renamed.

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name,)+
        }

        impl Kind {
            /// The kind as the store spells it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

kinds! {
    /// The control plane started for the first time.
    StoreCreated = "store_created",
    /// The fingerprints of the keys that every node must have were written down.
    KeysRecorded = "keys_recorded",
    /// The authority was replaced by its successor.
    AuthorityChanged = "authority_changed",
    /// The command key was replaced by another one that the trust root names.
    CommandKeyChanged = "command_key_changed",
    /// Another data key seals what is secret in the store.
    DataKeyMade = "data_key_made",
    /// Another vault key wraps the data keys.
    VaultKeyChanged = "vault_key_changed",
    /// Everything secret is sealed by the present data key; the former ones are forgotten.
    SecretsSealed = "secrets_sealed",
    /// An operator was added.
    OperatorCreated = "operator_created",
    /// An API token was made.
    ApiTokenCreated = "api_token_created",
    /// An API token was revoked.
    ApiTokenRevoked = "api_token_revoked",
    /// Somebody signed in by the provider, and has a token.
    OperatorSignedIn = "operator_signed_in",
    /// The provider knows somebody who has no role here (any more): what sign-ins gave them ended.
    SignInRefused = "sign_in_refused",
    /// Somebody may add a second factor, with a code that was handed out for that.
    FactorInvited = "factor_invited",
    /// Somebody added a second factor, which counts from its first code on.
    FactorAdded = "factor_added",
    /// A second factor was shown to work, and counts.
    FactorConfirmed = "factor_confirmed",
    /// Somebody removed their own second factor.
    FactorRemoved = "factor_removed",
    /// An administrator or the console removed somebody's second factor.
    FactorReset = "factor_reset",
    /// A code of a second factor gave a token the step-up.
    OperatorSteppedUp = "operator_stepped_up",
    /// A code was wrong, too old, or used already.
    FactorCodeRefused = "factor_code_refused",
    /// So many codes were refused that none is taken for a while: somebody guesses.
    FactorLocked = "factor_locked",
    /// A version of the trust root was accepted.
    TrustRootAccepted = "trust_root_accepted",
    /// An enrollment token was made.
    EnrollmentTokenCreated = "enrollment_token_created",
    /// An enrollment token was used from a network that it is not for. It stays.
    EnrollmentRefused = "enrollment_refused",
    /// A device was enrolled for the first time.
    DeviceEnrolled = "device_enrolled",
    /// A known device was enrolled again, with a new generation.
    DeviceReenrolled = "device_reenrolled",
    /// A device's certificate was renewed.
    CertificateRenewed = "certificate_renewed",
    /// An old certificate was to be renewed late, of a device that has a newer one: somebody may
    /// have an old copy of its disk.
    RenewalRefused = "renewal_refused",
    /// A device's enrollment was revoked.
    DeviceRevoked = "device_revoked",
    /// A device was put into other groups.
    DeviceGroupsChanged = "device_groups_changed",
    /// A device reported other facts about itself.
    DeviceReported = "device_reported",
    /// A device speaks from before what it is said to have had on disk: its state went back, or
    /// somebody acked in its name.
    JournalRollback = "journal_rollback",
    /// A device has seen higher numbers than the store has given: the store is an older copy, and
    /// goes on from there.
    SequenceRaised = "sequence_raised",
    /// A device was shown an audit log that contradicts what it was shown before.
    AuditForked = "audit_forked",
    /// An order was accepted.
    OrderCreated = "order_created",
    /// An order that stops everything that destroys was accepted.
    FreezeOrdered = "freeze_ordered",
    /// An order that lets it go on was accepted; it needs approvals.
    ThawOrdered = "thaw_ordered",
    /// A person's approval of an order was accepted.
    OrderApproved = "order_approved",
    /// A person's approval of an order was taken back, and with it what left on its word.
    ApprovalWithdrawn = "approval_withdrawn",
    /// An order was withdrawn before it was approved.
    OrderRejected = "order_rejected",
    /// Commands of an order left on the word of break-glass, in place of its approvers.
    BreakGlassUsed = "break_glass_used",
    /// Orders are stopped, by somebody on the console or by the brake.
    LockdownBegan = "lockdown_began",
    /// Somebody on the console ended a lockdown.
    LockdownEnded = "lockdown_ended",
    /// The first wave of an order succeeded: the devices behind it follow.
    FirstWavePassed = "first_wave_passed",
    /// A device of an order's first wave did not succeed: the devices behind it wait for somebody.
    FirstWaveStopped = "first_wave_stopped",
    /// Somebody had the devices behind a first wave follow.
    OrderContinued = "order_continued",
    /// A command waits for the first wave of its order.
    CommandAwaitsWave = "command_awaits_wave",
    /// A command waits for approvals.
    CommandAwaitsApproval = "command_awaits_approval",
    /// A command stays where it is, because two machines hold the identity of its device.
    CommandHeld = "command_held",
    /// A command was numbered and signed.
    CommandQueued = "command_queued",
    /// A command was handed to a session.
    CommandSent = "command_sent",
    /// A device has the command on disk.
    CommandAcked = "command_acked",
    /// The command is to be delivered again: its device was said to have it, and has not.
    CommandLost = "command_lost",
    /// A device reports a stage.
    CommandRunning = "command_running",
    /// A device proved a stage, before the end of the command.
    CommandProved = "command_proved",
    /// A credential of a device is held, sealed.
    EscrowKept = "escrow_kept",
    /// Somebody read a sealed credential.
    EscrowRead = "escrow_read",
    /// What a command collected is here, whole, as its device signed it.
    CollectionArrived = "collection_arrived",
    /// What a command collected is gone from its device before all of it was here.
    CollectionLost = "collection_lost",
    /// A device signed for more than its order lets it collect: nothing of that is taken.
    CollectionRefused = "collection_refused",
    /// What a command collected was kept long enough.
    CollectionRemoved = "collection_removed",
    /// A receipt ended the command.
    CommandFinished = "command_finished",
    /// A command's validity ended before a device took it.
    CommandExpired = "command_expired",
    /// A command was withdrawn.
    CommandCancelled = "command_cancelled",
    /// A command's device lost its enrollment while the command was out.
    CommandInDoubt = "command_in_doubt",
    /// A device reports that somebody tampered with a command's effect, or that the effect went
    /// without an order.
    DeviceTampered = "device_tampered",
    /// A boot of a device came back after a later one: two machines hold its identity.
    DeviceCloned = "device_cloned",
    /// A command's effect came to the end that its order gave it.
    EffectEnded = "effect_ended",
    /// A device spoke of a command that had ended otherwise.
    ReceiptConflict = "receipt_conflict",
    /// A device answered an envelope that this control plane never sent: somebody forged one.
    EnvelopeForged = "envelope_forged",
    /// A receipt or a notice was not signed by the device it came from, or not for this enrollment.
    ReceiptForged = "receipt_forged",
}
