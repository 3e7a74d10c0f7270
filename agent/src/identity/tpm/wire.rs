//! What is said to a TPM: the few commands that a signing key takes (TCG TPM 2.0 Library, part 3).
//!
//! Owns one connection and its handles. The TPM is a device of the machine, yet its answers are bounded and
//! judged like those of anybody else. Keeps no key.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use tpm2_protocol::basic::{TpmHandle, TpmUint16};
use tpm2_protocol::constant::TPM_MAX_COMMAND_SIZE;
use tpm2_protocol::data::{
    Tpm2bDigest, Tpm2bPrivate, Tpm2bPublic, TpmAlgId, TpmEccCurve, TpmRc, TpmRcBase, TpmRh, TpmSt,
    TpmaObject, TpmaSession, TpmsAuthCommand, TpmsEccParms, TpmsSchemeHash, TpmtEccScheme,
    TpmtPublic, TpmtSigScheme, TpmtSymDefObject, TpmtTkHashcheck, TpmuAsymScheme, TpmuPublicId,
    TpmuPublicParms, TpmuSignature, TpmuSymKeyBits, TpmuSymMode,
};
use tpm2_protocol::frame::{
    TpmClearCommand, TpmClearResponse, TpmCreateCommand, TpmCreatePrimaryCommand,
    TpmCreatePrimaryResponse, TpmCreateResponse, TpmFlushContextCommand, TpmFlushContextResponse,
    TpmFrame, TpmLoadCommand, TpmLoadResponse, TpmResponse, TpmSignCommand, TpmSignResponse,
    TpmUnmarshalBody, tpm_marshal_command,
};
use tpm2_protocol::{TpmError as FormError, TpmMarshal, TpmUnmarshal, TpmWriter};

use super::Sealed;

/// For one answer of a TPM behind a socket. A device has limits of the kernel's own.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a TPM that asks for it is asked again.
const ATTEMPTS: usize = 5;
/// Where an answer says how long it is.
const LENGTH: std::ops::Range<usize> = 2..6;
/// The shortest answer.
const HEADER: usize = 10;

/// Why a TPM did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It cannot be reached, or went away.
    #[error("the tpm cannot be reached")]
    Link(#[from] io::Error),
    /// It refuses; the number is its response code.
    #[error("the tpm refuses (response code {0:#x})")]
    Refused(u32),
    /// Its answer is none.
    #[error("the tpm answers something else than was asked ({0})")]
    Form(FormError),
    /// It answers with another key or another kind of signature.
    #[error("the tpm answers with another key")]
    Key,
}

impl TpmError {
    /// Whether it wants a password that is not known here, or forbids what was asked: a wrong one, too many of
    /// them, a hierarchy that is switched off (TPM_RC_AUTH_FAIL, BAD_AUTH, HIERARCHY,
    /// LOCKOUT, DISABLED; the handle or session that the code is about aside).
    pub(super) fn is_about_authority(&self) -> bool {
        /// Format one: which parameter, handle or session it is about.
        const WHICH: u32 = 0xf40;
        match self {
            Self::Refused(code) if code & 0x80 != 0 => {
                matches!(code & !WHICH, 0x8e | 0xa2 | 0x85)
            }
            Self::Refused(code) => matches!(code, 0x921 | 0x120),
            Self::Link(_) | Self::Form(_) | Self::Key => false,
        }
    }
}

/// A connection to a TPM.
#[derive(Debug)]
pub(super) struct Link(Transport);

#[derive(Debug)]
enum Transport {
    Device(File),
    Socket(UnixStream),
}

impl Link {
    /// To the device (`/dev/tpmrm0`), or to the socket of a TPM in software.
    pub(super) fn open(path: &Path) -> Result<Self, TpmError> {
        if std::fs::metadata(path)?.file_type().is_socket() {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            return Ok(Self(Transport::Socket(stream)));
        }
        Ok(Self(Transport::Device(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    /// Makes a signing key below the primary one. It leaves this TPM sealed only.
    pub(super) fn create(&mut self, primary: TpmHandle) -> Result<Sealed, TpmError> {
        let command = TpmCreateCommand {
            handles: [primary],
            in_sensitive: Default::default(),
            in_public: signing_key().into(),
            outside_info: Default::default(),
            creation_pcr: Default::default(),
        };
        let made: TpmCreateResponse = self.call(&command, true)?;
        Ok(Sealed { public: bytes(&made.out_public)?, private: bytes(&made.out_private)? })
    }

    /// Makes the primary key, which is the same each time and is kept nowhere.
    pub(super) fn primary(&mut self) -> Result<TpmHandle, TpmError> {
        let made: TpmCreatePrimaryResponse = self.call(&primary_command(), true)?;
        Ok(made.handles[0])
    }

    /// The public half of the primary key: another one once the owner's hierarchy was cleared.
    pub(super) fn fingerprint(&mut self) -> Result<Vec<u8>, TpmError> {
        let command = primary_command();
        let made: TpmCreatePrimaryResponse = self.call(&command, true)?;
        let public = bytes(&made.out_public);
        self.flush(made.handles[0])?;
        public
    }

    /// Clears the owner's and the endorsement hierarchy, by the empty password of one that may.
    pub(super) fn clear(&mut self, by: TpmRh) -> Result<(), TpmError> {
        let command = TpmClearCommand { handles: [TpmHandle::new(by.value())] };
        let _: TpmClearResponse = self.call(&command, true)?;
        Ok(())
    }

    /// Loads a key that [`Link::create`] made.
    pub(super) fn load(&mut self, primary: TpmHandle, key: &Sealed) -> Result<TpmHandle, TpmError> {
        let command = TpmLoadCommand {
            handles: [primary],
            in_private: read::<Tpm2bPrivate>(&key.private)?,
            in_public: read::<Tpm2bPublic>(&key.public)?,
        };
        let loaded: TpmLoadResponse = self.call(&command, true)?;
        Ok(loaded.handles[0])
    }

    /// Forgets a loaded key.
    pub(super) fn flush(&mut self, handle: TpmHandle) -> Result<(), TpmError> {
        let command = TpmFlushContextCommand { handles: [], flush_handle: handle };
        let _: TpmFlushContextResponse = self.call(&command, false)?;
        Ok(())
    }

    /// Signs a SHA-256: `r` and `s`, 32 bytes each.
    pub(super) fn sign(&mut self, key: TpmHandle, digest: &[u8]) -> Result<[u8; 64], TpmError> {
        let command = TpmSignCommand {
            handles: [key],
            digest: Tpm2bDigest::try_from(digest).map_err(TpmError::Form)?,
            // That of the key.
            in_scheme: TpmtSigScheme::default(),
            validation: TpmtTkHashcheck {
                tag: TpmSt::HashCheck,
                hierarchy: TpmRh::Null,
                digest: Tpm2bDigest::default(),
            },
        };
        let signed: TpmSignResponse = self.call(&command, true)?;
        let TpmuSignature::Ecdsa(signature) = signed.signature.signature else {
            return Err(TpmError::Key);
        };
        let mut fixed = [0; 64];
        for (half, number) in
            fixed.chunks_exact_mut(32).zip([&signature.signature_r, &signature.signature_s])
        {
            padded(half, number).ok_or(TpmError::Key)?;
        }
        Ok(fixed)
    }

    fn call<C: TpmFrame, R: TpmUnmarshalBody>(
        &mut self,
        command: &C,
        is_authorized: bool,
    ) -> Result<R, TpmError> {
        // Neither the owner hierarchy nor our keys have a password.
        let empty = TpmsAuthCommand {
            session_handle: TpmHandle::new(TpmRh::Pw.value()),
            session_attributes: TpmaSession::CONTINUE_SESSION,
            ..Default::default()
        };
        let (tag, sessions) = match is_authorized {
            true => (TpmSt::Sessions, vec![empty]),
            false => (TpmSt::NoSessions, Vec::new()),
        };
        let mut buffer = vec![0; TPM_MAX_COMMAND_SIZE];
        let mut writer = TpmWriter::new(&mut buffer);
        tpm_marshal_command(command, tag, &sessions, &mut writer).map_err(TpmError::Form)?;
        let mut code = 0;
        for _ in 0..ATTEMPTS {
            let answer = self.exchange(writer.as_bytes())?;
            let response = TpmResponse::cast(&answer).map_err(TpmError::Form)?;
            let said = response.rc().map_err(TpmError::Form)?;
            code = said.value();
            match said {
                TpmRc::Fmt0(TpmRcBase::Success) => {
                    return response.unmarshal::<R>().map_err(TpmError::Form);
                }
                TpmRc::Warn(TpmRcBase::Retry | TpmRcBase::Testing | TpmRcBase::Yielded) => {}
                TpmRc::Fmt0(_) | TpmRc::Fmt1(_) | TpmRc::Warn(_) => break,
            }
        }
        Err(TpmError::Refused(code))
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        match &mut self.0 {
            Transport::Device(device) => exchange(device, command),
            Transport::Socket(stream) => exchange(stream, command),
        }
    }
}

fn primary_command() -> TpmCreatePrimaryCommand {
    TpmCreatePrimaryCommand {
        handles: [TpmHandle::new(TpmRh::Owner.value())],
        in_public: storage_key().into(),
        ..Default::default()
    }
}

fn exchange(link: &mut (impl Read + Write), command: &[u8]) -> Result<Vec<u8>, TpmError> {
    link.write_all(command)?;
    // A device gives the whole answer to one reading, and the kernel of old to the first one only.
    let mut answer = vec![0; TPM_MAX_COMMAND_SIZE];
    let mut filled = 0;
    loop {
        let free = answer.get_mut(filled..).unwrap_or_default();
        match link.read(free) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        let length = answer.get(LENGTH).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        let length = length.map_or(0, u32::from_be_bytes) as usize;
        if filled >= HEADER && filled >= length {
            answer.truncate(filled);
            return Ok(answer);
        }
    }
}

/// The public point of a sealed key, uncompressed.
pub(super) fn point(key: &Sealed) -> Result<[u8; 65], TpmError> {
    let public = read::<Tpm2bPublic>(&key.public)?;
    let TpmuPublicId::Ecc(point) = &public.unique else { return Err(TpmError::Key) };
    let mut uncompressed = [4; 65];
    for (half, number) in uncompressed[1..].chunks_exact_mut(32).zip([&point.x, &point.y]) {
        padded(half, number).ok_or(TpmError::Key)?;
    }
    Ok(uncompressed)
}

/// A number with the zeros before it that the TPM left out.
fn padded(into: &mut [u8], number: &[u8]) -> Option<()> {
    let zeros = into.len().checked_sub(number.len())?;
    into[..zeros].fill(0);
    into[zeros..].copy_from_slice(number);
    Some(())
}

/// The storage key at the top of the owner's hierarchy, as others make it too (draft-bottomley-tpm2-keys).
fn storage_key() -> TpmtPublic {
    let symmetric = TpmtSymDefObject {
        algorithm: TpmAlgId::Aes,
        key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(128)),
        mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
    };
    let purpose = TpmaObject::RESTRICTED | TpmaObject::DECRYPT;
    let parms = TpmsEccParms { symmetric, ..ecc() };
    key(purpose, parms)
}

/// A key for ECDSA with SHA-256 on P-256 that this TPM made, and that never moves.
fn signing_key() -> TpmtPublic {
    let scheme = TpmtEccScheme {
        scheme: TpmAlgId::Ecdsa,
        details: TpmuAsymScheme::Hash(TpmsSchemeHash { hash_alg: TpmAlgId::Sha256 }),
    };
    key(TpmaObject::SIGN_ENCRYPT, TpmsEccParms { scheme, ..ecc() })
}

fn ecc() -> TpmsEccParms {
    TpmsEccParms { curve_id: TpmEccCurve::NistP256, ..TpmsEccParms::default() }
}

fn key(purpose: TpmaObject, parms: TpmsEccParms) -> TpmtPublic {
    TpmtPublic {
        object_type: TpmAlgId::Ecc,
        name_alg: TpmAlgId::Sha256,
        object_attributes: purpose
            | TpmaObject::FIXED_TPM
            | TpmaObject::FIXED_PARENT
            | TpmaObject::SENSITIVE_DATA_ORIGIN
            | TpmaObject::USER_WITH_AUTH
            | TpmaObject::NO_DA,
        auth_policy: Tpm2bDigest::default(),
        parameters: TpmuPublicParms::Ecc(parms),
        unique: TpmuPublicId::Ecc(Default::default()),
    }
}

fn bytes(value: &impl TpmMarshal) -> Result<Vec<u8>, TpmError> {
    let mut buffer = vec![0; TPM_MAX_COMMAND_SIZE];
    let mut writer = TpmWriter::new(&mut buffer);
    value.marshal(&mut writer).map_err(TpmError::Form)?;
    Ok(writer.as_bytes().to_vec())
}

fn read<T: TpmUnmarshal>(bytes: &[u8]) -> Result<T, TpmError> {
    match T::unmarshal(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(TpmError::Key),
        Err(error) => Err(TpmError::Form(error)),
    }
}
