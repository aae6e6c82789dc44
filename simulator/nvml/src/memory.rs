//! Writing to the caller's memory: the crate's only dereferences.

use std::ffi::{c_char, c_uint};

use nvml_wrapper_sys::bindings::{
    nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE as INSUFFICIENT_SIZE,
    nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT as INVALID_ARGUMENT, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
    nvmlReturn_t,
};

/// Stores a value where the caller asked for it.
///
/// # Safety
/// `to` is null or valid for a write of `T`, as NVML requires of its callers.
pub(crate) unsafe fn give<T>(to: *mut T, value: T) -> nvmlReturn_t {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, and valid for a write by this function's contract.
    unsafe { to.write(value) };
    SUCCESS
}

/// Stores a text with its end, if it fits.
///
/// # Safety
/// `to` is null or valid for writes of `length` bytes.
pub(crate) unsafe fn give_text(to: *mut c_char, length: c_uint, text: &str) -> nvmlReturn_t {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() + 1 > length as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the text and its end fit in `length` bytes, which the caller vouches for; they cannot overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    SUCCESS
}

/// Stores a list as NVML does: the count goes in as room and comes out as length; too little room
/// writes the length and nothing else.
///
/// # Safety
/// `count` is null or valid for reads and writes; `to` is null or valid for writes of `*count` values.
pub(crate) unsafe fn give_list<T: Copy>(count: *mut c_uint, to: *mut T, values: &[T]) -> nvmlReturn_t {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    let length = c_uint::try_from(values.len()).unwrap_or(c_uint::MAX);
    // SAFETY: not null, and valid by this function's contract.
    let room = unsafe { count.replace(length) };
    if length == 0 {
        return SUCCESS;
    }
    if room < length || to.is_null() {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: `to` has room for `room >= length` values by this function's contract.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len()) };
    SUCCESS
}

/// Reads a text that the caller passed.
///
/// # Safety
/// `text` is null or ends with a zero byte.
pub(crate) unsafe fn text_of<'a>(text: *const c_char) -> Option<&'a str> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, and ended by zero by this function's contract.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_str().ok()
}
